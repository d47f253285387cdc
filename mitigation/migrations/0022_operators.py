from django.db import migrations


def keep_what_they_may(apps, schema_editor):
    """Every login could act before there were roles; who has no flag may only look from now on."""
    apps.get_model("auth", "User").objects.filter(is_staff=False).update(is_staff=True)


class Migration(migrations.Migration):

    dependencies = [
        ('mitigation', '0021_logins'),
        ('auth', '0012_alter_user_first_name_max_length'),
    ]

    operations = [migrations.RunPython(keep_what_they_may, migrations.RunPython.noop, elidable=True)]
